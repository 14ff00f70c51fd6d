"""What a course needs around its models: claims and findings from stored records."""
