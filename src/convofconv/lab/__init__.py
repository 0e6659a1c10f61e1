"""What `coc` runs: data, training and figures around the core. Needs the extra ``[lab]``.

The core never imports anything from here.
"""
