"""Stage `fuse`: teachers' predictions weighted and mixed into targets."""
