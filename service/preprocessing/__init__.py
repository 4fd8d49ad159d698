"""From what people have, images, texts and packed tensors, to the numbers a network takes. Knows numpy; pillow and
tokenizers only where a model needs them."""
