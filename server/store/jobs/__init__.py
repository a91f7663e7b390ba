"""Jobs in the database: their images, leases and annotations."""
