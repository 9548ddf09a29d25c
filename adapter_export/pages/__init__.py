"""Pages in HTML that commands write: one file that needs no network, no scripts and no other file.

The templates escape all text. Plots are drawn by matplotlib, as SVG inside the page.
"""
