"""Tables of the README and of docs/, filled from the JSON files in reports/."""
