"""DICOM files without the patient: PS3.15 Annex E, Basic Application Level Confidentiality Profile.

A new file is built from what is known to be safe (`kept.toml`) and from what the profile says has
to be replaced or emptied (`profile.csv`, its Table E.1-1). Nothing else is copied, so an attribute
that nobody thought of is removed. docs/deidentification.md says it for a data-protection officer.

::

    tree.py          which files of a folder are looked at, and where new ones go
      reading.py     the bytes of one file -> data set
      refusals.py    may its pixels hold text?
      attributes.py  attribute by attribute: keep, replace, empty, remove
        values.py    is a value a plain measure, a listed term, a date?
        tables.py    profile.csv and kept.toml
        project_key.py   new UIDs, pseudonyms, days to shift, all under one key
      pixels.py      pixel data to their exact length; codestreams.py: no comments in JPEG
      writing.py     data set -> the bytes of a new file, read back and checked
"""
