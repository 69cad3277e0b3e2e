"""Stage `report`: tables, ranks and plots of everything that was evaluated."""
