"""The one way to read, write and remove what lies on a disk that others can write to, too."""
