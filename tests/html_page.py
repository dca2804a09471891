"""Reading a page."""

import html.parser

VOID = {'meta', 'link', 'img', 'br', 'hr', 'input', 'line', 'circle', 'rect', 'path', 'image', 'use'}


class Page(html.parser.HTMLParser):
    """The elements and the text of a page; complains of tags that do not match."""

    def __init__(self, path):
        super().__init__()
        self.open, self.elements, self.words = [], [], []
        self.feed(path.read_text())
        self.close()
        assert not self.open
        self.text = ' '.join(' '.join(self.words).split())

    def handle_starttag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.elements.append((tag, dict(attributes)))

    def handle_endtag(self, tag):
        if tag not in VOID:
            assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] != 'style':
            self.words.append(data)

    def all(self, tag):
        return [attributes for found, attributes in self.elements if found == tag]
