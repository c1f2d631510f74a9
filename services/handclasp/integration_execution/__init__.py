"""The execution server: runs integrations for whoever presents a client certificate that may."""
