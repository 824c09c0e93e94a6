"""A pytest plugin, ``-p checked_shapes``: shapes annotated in genft.ops and genft.methods are checked in every call.

Users never pay for this: the checks exist only where jaxtyping's import hook has been installed before the import.
"""

from jaxtyping import install_import_hook

install_import_hook(["genft.ops", "genft.methods"], "beartype.beartype")
