"""What mmengine's `get_model` and other tools of OpenMMLab call in every package."""

from mmengine.registry import Registry

from mmext import registry


def register_all_modules(init_default_scope: bool = False) -> None:
    """Import all modules of mmext that register something; types `mmext.X` are found without it.

    Args:
        init_default_scope: Has no effect. mmext's configs are for the scope of mmdet.
    """
    for node in vars(registry).values():
        if isinstance(node, Registry):
            node.import_from_location()
