"""The bytes half of the wire: blobs and logs."""
