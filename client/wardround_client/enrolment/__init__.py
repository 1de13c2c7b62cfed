"""A hospital's home, how it joins a consortium, and how its keys are replaced.

`home` makes and opens the folder, `settings` is its site.toml, `keys` what lies in keys/, `joining`
the request, the answer and later versions of the roster, `rotation` new keys.
"""
