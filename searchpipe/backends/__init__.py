"""Engines that run models, behind one interface."""
