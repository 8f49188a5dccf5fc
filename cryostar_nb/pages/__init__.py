"""What people look at: figures, 3D views, widgets and pages."""
