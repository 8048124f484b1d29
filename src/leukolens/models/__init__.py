"""The architectures, their pretrained weights, and the classifier that is built of them."""
