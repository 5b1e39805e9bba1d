"""The built-in losses, one file each, registered through the same entry points as anyone's."""
