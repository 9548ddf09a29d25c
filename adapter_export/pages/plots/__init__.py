"""The plots of pages, one kind a module. matplotlib draws them; it is in the extra [report]."""
