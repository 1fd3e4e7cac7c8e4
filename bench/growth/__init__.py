"""Growth: what a message costs Towpath when there is ever more of something, and what that means for a million
connections. ``python -m bench --growth`` measures it and writes docs/scaling.md.
"""
