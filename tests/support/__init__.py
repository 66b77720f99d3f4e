"""What several tests share: values of the model, and peers in memory."""
