"""What setup.cfg cannot say: the wheel holds a second copy of mmext/.mim, for onedl-mim.

onedl-mim 0.5.1 (`mim train mmext`, `mim run mmext train`) looks for tools/ and configs/ in the folder of the first
path in the installed RECORD. pip sorts that file, and `../../../bin/mmext`, the console script, would be first;
`+mmext` sorts before it. openmim and mmengine read mmext/.mim. Remove the copy when onedl-mim finds a package by its
name.
"""

from setuptools import find_packages, setup

setup(packages=[*find_packages(include=['mmext', 'mmext.*']), '+mmext'], package_dir={'+mmext': 'mmext/.mim'})
