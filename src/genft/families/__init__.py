"""How each kind of task is learned and scored."""
