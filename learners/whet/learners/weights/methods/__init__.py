"""The methods, a file each: how experience becomes rows, and which loss is taken of them."""
