"""Stand-ins for what a machine may lack: a GPU's driver, TensorRT."""
