"""How good a model is: its answers judged, checked and measured, each time as one result file (results.py)."""
