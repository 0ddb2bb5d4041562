"""Kill the page server a thousand times while machines run: none is lost, no byte is wrong."""
