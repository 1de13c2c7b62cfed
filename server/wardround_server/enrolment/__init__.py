"""The coordinating centre's home, its certificates, and who is admitted.

`home` makes and opens the folder, `settings` is its server.toml, `certificates` what an authority
and a server certificate are, `renewal` how they are replaced, `rosters` the versions of the roster,
`admission` who comes in and who goes.
"""
