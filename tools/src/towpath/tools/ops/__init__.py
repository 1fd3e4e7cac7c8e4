"""Commands for operators that look at a running installation and steer it."""
