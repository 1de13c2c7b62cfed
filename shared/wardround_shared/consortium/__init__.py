"""Who belongs to the consortium, and how a hospital comes to belong: signed files and fingerprints.

`roster_file` is the signed, versioned list of sites, `enrolment` the two files by which a site
gets into it, `fingerprints` what is read over the telephone, `authorities` which certificates a
site trusts. `documents` and `signatures` are what these are made of, `fields` what may stand in
them, and `files` how a home keeps them.
"""
