"""Answers as DICOM objects for the hospital's own archive: `wardround predict --dicom-out`.

For each input a structured report (PS3.3 A.35.3, template PS3.16 TID 1500), and for a segmentation
a segmentation object (PS3.3 A.51) that the report refers to. They are written with highdicom
(Bridge et al. 2022). `identity` says which model answers, `measured` what it has answered, `report`
and `segmentation` make the objects, `reports` writes them.

They have the patient and the study of the image that they are about.
"""
