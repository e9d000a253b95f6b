"""Plug-ins made of what users have: functions, model classes, tables."""
