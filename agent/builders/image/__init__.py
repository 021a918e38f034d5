"""What an image is made of: plan and Dockerfile, content key, ignore file, repository."""
