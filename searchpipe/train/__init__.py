"""Training of the small models that searchpipe ships: run offline, needs the extra ``train``."""
