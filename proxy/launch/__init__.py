"""Starting any program so that its requests go through autopay, whatever its runtime needs."""
