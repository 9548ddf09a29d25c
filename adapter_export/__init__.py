"""adapter-export: trained adapters to production inference."""
