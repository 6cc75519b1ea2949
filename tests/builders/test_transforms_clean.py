"""Export HTML, the chat page's residue, error pages and white space: exact texts before and after."""

from __future__ import annotations

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from instruct_builders import records, transforms

TURNS = pa.list_(pa.struct({"role": pa.string(), "content": pa.string()}))
CODE_BOX = (
    '<pre><div class="bg-black rounded-md mb-4"><div class="flex items-center relative"><span>{language}</span>'
    '<button class="flex ml-auto gap-2"><svg stroke="currentColor"><path d="M16 4h2"></path></svg>Copy code</button>'
    '</div><div class="p-4 overflow-y-auto"><code class="!whitespace-pre hljs language-{language}">{code}</code></div>'
    "</div></pre>"
)


def conversations(*turns, **columns) -> pa.Table:
    rows = [[{"role": role, "content": content} for role, content in row] for row in turns]
    return pa.table({"messages": pa.array(rows, TURNS), **columns})


def answer(transform, text: str, question: str = "q", **parameters) -> str:
    """What becomes of one answer; running the transform again must change nothing."""
    table = transform(conversations([("user", question), ("assistant", text)]), **parameters)
    assert transform(table, **parameters).equals(table)
    return table["messages"][0][1]["content"].as_py()


def exported(body: str) -> str:
    return f'<div class="markdown prose w-full break-words dark:prose-invert light">{body}</div>'


EXPORTS = {
    "paragraphs": ("<p>One <strong>two</strong> <em>three</em>.</p><p>Four</p>", "One **two** *three*.\n\nFour"),
    "code": (
        "<p>So:</p>"
        + CODE_BOX.format(
            language="cpp",
            code='<span class="hljs-keyword">template</span> &lt;<span>class</span> T&gt;\n'
            "std::vector&lt;T&gt; f(int a_b) {\n    return {a*b};\n}\n",
        ),
        "So:\n\n```cpp\ntemplate <class T>\nstd::vector<T> f(int a_b) {\n    return {a*b};\n}\n```",
    ),
    "code without a class": (
        "<p>x</p><pre><div><span>c++</span><button>Copy code</button><code>  int a;\n\n\n  b;</code></div></pre>",
        "x\n\n```c++\n  int a;\n\n\n  b;\n```",
    ),
    "code that holds a fence": (
        CODE_BOX.format(language="markdown", code="```python\nx\n```\n"),
        "````markdown\n```python\nx\n```\n````",
    ),
    "inline code": ("<p>Use <code>a_b*c</code> and a_b * c_d.</p>", "Use `a_b*c` and a_b * c_d."),
    "nested lists": (
        '<ol start="3"><li>one<ul><li>deep<ul><li>deepest</li></ul></li></ul></li><li>two</li></ol>',
        "3. one\n   - deep\n     - deepest\n4. two",
    ),
    "table": (
        "<table><thead><tr><th>a|b</th><th>c</th></tr></thead><tbody><tr><td>1</td><td><code>x|y</code></td></tr>"
        "</tbody></table>",
        "| a\\|b | c |\n| --- | --- |\n| 1 | `x\\|y` |",
    ),
    "headings, quotes, rules, breaks": (
        "<h2>Title</h2><blockquote><p>said</p></blockquote><hr><p>a<br>b</p>",
        "## Title\n\n> said\n\n---\n\na\nb",
    ),
    "links": (
        '<p><a href="https://x.org/a_b" target="_new">https://x.org/a_b</a> <a href="https://y.org">y</a></p>',
        "https://x.org/a_b [y](https://y.org)",
    ),
    "formula": (
        '<p>So <span class="math math-inline"><span class="katex"><span class="katex-mathml"><math><semantics>'
        '<mi>x</mi><annotation encoding="application/x-tex">x_1^2 &lt; 3</annotation></semantics></math></span>'
        '<span class="katex-html" aria-hidden="true">x12&lt;3</span></span></span> holds</p>',
        "So $x_1^2 < 3$ holds",
    ),
    "comparison": ("<p>a&lt;b and b &gt; c &amp;&amp; d</p>", "a<b and b > c && d"),
    "what breaks HTML parsers": ("<p>unclosed <![foo x</p>", "unclosed <![foo x"),
    "a tag as text": ("<p>&lt;p&gt;x&lt;/p&gt;</p>", "\\<p>x</p>"),
}


@pytest.mark.parametrize("name", EXPORTS)
def test_export_html_becomes_markdown(name):
    html, markdown = EXPORTS[name]
    assert answer(transforms.html_to_markdown, exported(html)) == markdown
    # Without the page's classes only an answer that consists of rendered blocks and was not asked to be HTML.
    assert answer(transforms.html_to_markdown, html) == markdown
    if "hljs" not in html and "bg-black" not in html:
        assert answer(transforms.html_to_markdown, html, marked_only=True) == html
        assert answer(transforms.html_to_markdown, html, question="Which HTML tag is it?") == html


UNTOUCHED = [
    "a < b and b > c",
    "a<b>c",
    "List<int> x = new ArrayList<>();",
    "std::map<std::string, std::vector<int>> m;\nif (a<b && c>d) {}",
    "```xml\n<p>x</p>\n<div class='y'/>\n```",
    "# Title\n\n<p align='center'>logo</p>\n\ntext",
    "<p>x</p>\n\n# Title\n\n- a\n- b",
    "<p>Look:</p>\n```html\n<p>x</p>\n```\n",
    '<div class="card"><p>x</p></div>',
    '<p style="color: red">x</p>',
    "<html><body><p>x</p></body></html>",
    "<p>Name: <input name='a'> <my-tag>x</my-tag></p>",
    "<pattern>x</pattern>",
    "<http://example.org>",
    "<" * 50,
    "<div>" * 3000 + "x" + "</div>" * 3000,
    "2 / 3 of <b>them</b>",
    "",
]


@pytest.mark.parametrize("text", UNTOUCHED, ids=lambda text: text[:20])
def test_what_is_no_export_stays_byte_for_byte(text):
    table = conversations([("user", text), ("assistant", text)])
    assert transforms.html_to_markdown(table) is table or transforms.html_to_markdown(table).equals(table)


def test_a_persons_html_is_only_read_where_the_page_marked_it():
    box = '<div class="min-h-[20px] flex flex-col items-start gap-4 whitespace-pre-wrap">my  text\n\n\n a &lt; b</div>'
    table = conversations(
        [("user", "<p>why?</p>"), ("assistant", "<p>so</p>")], [("user", box), ("assistant", "<p>so</p>")]
    )
    messages = transforms.html_to_markdown(table)["messages"].to_pylist()
    assert [turn["content"] for turn in messages[0]] == ["<p>why?</p>", "<p>so</p>"]  # they speak of tags
    assert messages[1][0]["content"] == "my  text\n\n\n a < b"


RESIDUE = {
    "```\npythonCopy code\nimport os\n```\nafter": "```python\nimport os\n```\nafter",
    "```\npython\nCopy code\nimport os\n```": "```python\nimport os\n```",
    "```python\nCopy code\nimport os\n```": "```python\nimport os\n```",
    "```pythonCopy codeimport os\n```": "```python\nimport os\n```",
    "```\nc++Copy code\nint a;\n```": "```c++\nint a;\n```",
    "  ```\n  jsCopy code\n  let a\n  ```": "  ```js\n  let a\n  ```",
    "a\n```\nCopy code\n```\nb": "a\nb",
    "pythonCopy code\nimport os": "python\nimport os",
    "python\nCopy code\nimport os": "python\nimport os",
    "1 / 2\nHello": "Hello",
    "1 / 2Hello": "Hello",
    "2 / 2\n\n```python\nx\n```": "```python\nx\n```",
    "Hello\nCopy123 chars / 45 words\nmore": "Hello\nmore",
    "Hello Copy123 chars / 45 words": "Hello",
    "Hello\n\nRegenerate response\n": "Hello",
    "Hi\nhttps://sharegpt.com/c/abc-1": "Hi",
    "Hi\n\nShared via ShareGPT\nRegenerate response": "Hi",
}
NO_RESIDUE = [
    "```python\nx\n```\nCopy code to clipboard",
    "Copy code",
    "Press Copy code to copy the code.",
    "1 / 2",
    "1 / 2 is a half",
    "1 / 2x + 3",
    "3 / 2\nx",
    "1/2\nx",
    "Regenerate response",
    "The button says Regenerate response",
    "See https://sharegpt.com/c/abc",
    "Copy 3 chars / 2 words",
    "```\nregenerate\n```",
]


@pytest.mark.parametrize("text", RESIDUE)
def test_residue_goes(text):
    assert answer(transforms.ui_residue, text) == RESIDUE[text]


@pytest.mark.parametrize("text", NO_RESIDUE)
def test_text_that_only_resembles_residue_stays(text):
    assert answer(transforms.ui_residue, text) == text


def test_residue_of_answers_is_left_in_questions_and_counters_can_be_kept():
    table = conversations([("user", "1 / 2\nHello\nRegenerate response"), ("assistant", "3 / 4\n\nis more")])
    assert transforms.ui_residue(table)["messages"].to_pylist() == [
        [{"role": "user", "content": "Hello\nRegenerate response"}, {"role": "assistant", "content": "is more"}]
    ]
    assert transforms.ui_residue(table, counters=False).equals(table)


PIECES = ["```", "````", "python", "Copy code", "pythonCopy code", "\n", " ", "1 / 2", "x", "Copy1 chars / 2 words"]
PIECES += ["\nRegenerate response", "<p>", "</p>", "<pre>", "</pre>", "<code>", "</code>", "&lt;", "<br>"]


@settings(max_examples=150, deadline=None)
@given(
    st.lists(
        st.sampled_from(PIECES),
        max_size=14,
    ).map("".join)
)
def test_cleaning_twice_is_cleaning_once(text):
    table = conversations([("user", text), ("assistant", text)])
    for transform in (transforms.html_to_markdown, transforms.ui_residue, transforms.strip_whitespace):
        once = transform(table)
        assert transform(once).equals(once), transform.__name__


ERRORS = [
    "Too many requests in 1 hour. Try again later.",
    "!Too many requests in 1 hour. Try again later.",
    "Something went wrong. If this issue persists please contact us through our help center at help.openai.com.",
    "Hmm...something seems to have gone wrong. Maybe try me again in a little bit.",
    "network error\n\nThere was an error generating a response",
    "The server had an error while processing your request. Sorry about that!",
]
NO_ERRORS = [
    "The message 'Too many requests in 1 hour. Try again later.' means that you should wait.",
    "Too many requests in 1 hour. Try again later. That is what the server says when it is rate limited.",
    "A network error happens when a host can't be reached.",
    "Something went wrong in your loop: i is never increased.",
]


def test_error_pages_are_rejected_and_answers_about_them_are_not():
    rows = [[("user", "q"), ("assistant", text)] for text in ERRORS + NO_ERRORS]
    rows.append([("user", ERRORS[0]), ("assistant", "Wait an hour.")])
    table = transforms.error_page(conversations(*rows))
    assert [row and row["reason"] for row in table["rejected"].to_pylist()] == ["error_page"] * len(ERRORS) + [
        None
    ] * 5
    assert table["rejected"][0].as_py() == {
        "reason": "error_page",
        "field": "messages[1].content",
        "detail": "Too many requests in 1 hour. Try again later.",
    }
    own = transforms.error_page(conversations([("user", "q"), ("assistant", "Oops 42")]), patterns=[r"Oops \d+"])
    assert own["rejected"][0]["reason"].as_py() == "error_page"


def test_white_space_is_stripped_at_both_ends_only_and_not_of_tool_answers():
    table = conversations(
        [("user", "\u00a0 a \n b\t\n"), ("tool", " {} "), ("assistant", "c")], context=pa.array(["  x\n"])
    )
    stripped = transforms.strip_whitespace(table)
    assert [turn["content"] for turn in stripped["messages"][0].as_py()] == ["a \n b", " {} ", "c"]
    assert stripped["context"].to_pylist() == ["x"]


def test_rejected_rows_are_left_alone():
    table = conversations([("user", " q "), ("assistant", exported("<p>x</p>") + "\nRegenerate response")])
    why = pa.array([{"reason": "nul", "field": None, "detail": "x"}], records.REJECTED)
    table = table.append_column("rejected", why)
    for transform in (transforms.html_to_markdown, transforms.ui_residue, transforms.strip_whitespace):
        assert transform(table).equals(table)
