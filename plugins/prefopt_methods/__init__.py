"""The built-in benchmark methods that are no losses, one file each, registered through the same door as anyone's."""
