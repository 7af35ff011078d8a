"""The engine every model of a process runs on."""
