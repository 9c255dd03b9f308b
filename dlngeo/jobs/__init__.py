"""What the commands of ``dlngeo`` do."""
