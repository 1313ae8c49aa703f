"""Sphinx extension: pages load nothing from another host; the theme is set up."""

import os


def forget_thebe(app, pagename, templatename, context, doctree) -> None:
    """Drop the live-code loader, which names a content network even where it is switched off."""
    context["script_files"] = [
        script
        for script in context.get("script_files", [])
        if "thebe" not in f"{script} {getattr(script, 'attributes', '')}".lower()
    ]


def theme(app, config) -> None:
    """One search field; source and launch buttons for the repository that publishes."""
    config.html_theme_options["navbar_persistent"] = []
    repository = os.environ.get("GITHUB_REPOSITORY")
    if repository:
        config.html_theme_options["repository_url"] = f"https://github.com/{repository}"


def setup(app) -> dict:
    app.connect("config-inited", theme)
    app.connect("html-page-context", forget_thebe, priority=900)
    return {"version": "1", "parallel_read_safe": True}
