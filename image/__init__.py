"""What the image is made with: see image.mk, and the Dockerfile."""
