"""Initcheck inside other tools."""
