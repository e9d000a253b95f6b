"""Plug-ins made of what users have: functions, models and tables of their own."""
