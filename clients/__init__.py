"""What a site runs, as a Flower ClientApp."""
