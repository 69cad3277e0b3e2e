"""Commands for people, which dvc.yaml does not call; `cohesive` lists them."""
