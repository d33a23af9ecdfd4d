"""Lines that tokenizers stumble over: written for the purpose, and made from them by rule."""

from __future__ import annotations

import random
from collections.abc import Iterator

WRITTEN = [
    "Hello, world!", "A man is riding a bicycle.", "a", " ", "  ", "   ", " a", "a ", " a ", "  a  b   c    d", "\n",
    "\n\n", "\r\n", "\n\n\n", "\t", "\t\t", " \n", "\n ", " \n ", "a\nb", "a\n\nb", "a\r\nb", "a \n b", "a\n \nb",
    "\tif x:\n\t\treturn y\n", "    def f(x):\n        return x ** 2\n\n\n", "trailing spaces   ",
    "   leading spaces", "no\u00a0break", "em\u2003space", "\u00a0\u00a0", "ideographic\u3000space",
    "zero\u200bwidth", "\ufeffmark", "a\u2028b", "a\u0085b", "\v\f", "bell\x07", "\x01\x02\x1f", "del\x7f",
    "soft\u00adhyphen", "word\u2060joiner", " \u00a0 \u2003 x", "0", "1", "12", "123", "1234", "12345", "1234567890",
    "3.14159", "1,234,567.89", "-42", "+7", "1e-10", "0x1F", "10%", "2024-02-29T23:59:59Z", "v1.2.3-rc4",
    "99 bottles", "x1y22z333", "a1", "1a", " 1", "  12", "1 2  3   4", "½ ¾ ⅓", "x²+y³", "Ⅷ Ⅻ ⅷ", "①②③", "٠١٢٣٤٥",
    "१२३", "１２３", "๑๒๓", "𝟘𝟙𝟚", "五六七", "1½", "2²²", "#1", "No.5", "50€", "$3.50", "£1m",
    "I'm you're he's we'll they've I'd don't", "I'M YOU'RE HE'S WE'LL THEY'VE I'D DON'T", "'s 't 're 've 'm 'll 'd",
    "'S 'T 'RE 'VE 'M 'LL 'D", "'Re 'vE 'Ll", "rock 'n' roll", "'twas", "y'all'd've", "it’s", "’s", "''''", "'ſ 'ſt",
    "o'clock", "\"quoted\" 'text' `code`", "(a) [b] {c} <d>", "a-b_c.d,e;f:g!h?i", "...", "....", "-----", "=====>",
    "!!!", "?!?!", "//", "\\\\", "!\n", "!\n\n", "...\r\n", "?! \n", ";\n\t", "* item\n* item\n",
    "| a | b |\n|---|---|\n", "a@b.example", "http://example.org/?q=1&r=%20#x", "C:\\Users\\me", "~/.config",
    "$HOME/${x:-y}", "a&&b||c", "x<=y>=z!=w", "i++;", "/* c */", "<!-- c -->", "&amp;", "@#$%^&*()",
    "snake_case camelCase PascalCase SCREAMING_CASE kebab-case", "_private __dunder__", "foo_1_bar", "e.g. i.e. etc.",
    "Straße, Größe, Übermut, Ärger, Öl", "Fußgängerübergänge", "ÄÖÜẞ", "naïve café résumé", "Ça va? Où êtes-vous?",
    "¿Qué? ¡Sí! Año", "São Paulo, não, coração", "Łódź, źdźbło", "příliš žluťoučký kůň", "İstanbul ılık",
    "Þetta er ágætt", "Tiếng Việt rất khó", "cafe\u0301 nai\u0308ve", "A\u030angstro\u0308m", "e\u0301\u0301\u0301",
    "\u0301alone", "Z\u0351\u036b\u0343a\u0334lgo", "ﬁ ﬂ ﬀ", "ǅ ǆ Ǆ", "Привет, мир! Ёжик", "Σίσυφος ΣΊΣΥΦΟΣ",
    "Καλημέρα", "שלום עולם", "שָׁלוֹם", "مرحبا بالعالم", "مَرْحَبًا", "سلام ۱۲۳", "नमस्ते दुनिया", "क्षत्रिय",
    "বাংলা", "தமிழ்", "తెలుగు", "ไทยไม่มีช่องว่าง", "မြန်မာ", "ខ្មែរ", "ລາວ", "ქართული", "Հայերեն", "አማርኛ", "ᏣᎳᎩ",
    "ᚠᚢᚦ", "བོད་", "你好，世界！", "今天是2024年2月29日。", "繁體中文", "こんにちは世界", "カタカナ ﾊﾝｶｸ",
    "東京タワー123", "안녕하세요 세계", "ㄱㄴㄷ", "㍿ ㎏ ㈱", "混合mixed文字text", "𠮷野家", "🙂", "😀😃😄", "👍🏽",
    "👨‍👩‍👧‍👦", "🏳️‍🌈", "🇩🇪🇫🇷", "☃ ☕ ✈️", "a🙂b", " 🙂 ", "🙂🙂 1", "™ © ®", "→ ⇒ ↔", "∀x∈ℝ: x²≥0", "∑∫√∞≈≠≤",
    "𝓗𝓮𝓵𝓵𝓸", "𝔘𝔫𝔦", "ⓗⓔⓛⓛⓞ", "Ｆｕｌｌｗｉｄｔｈ", "ᴴᵉˡˡᵒ", "\ue000\uf8ff", "\ufffd", "\U000f0000", "\u0378",
    "\U0001f9ff\U0001fae8", "<|im_start|>user\nHi<|im_end|>\n<|im_start|>assistant\n", "<|endoftext|>",
    "a<|endoftext|>b", " <|im_end|> ", "<|im_end|><|im_end|>", "<|im_end", "|im_end|>", "<|im_<|im_end|>end|>",
    "<| im_end |>", "<|IM_END|>", "<s>", "</s>", "<s>text</s>", "<unk>", "[INST] x [/INST]", "<pad>", "<0x41>",
    "<0x0A>x", "<|begin_of_text|>", "<|eot_id|>", "<file_sep>x<repo_name>", "<tool>call</tool>", "a<tool><tool> b",
    "<|im_start|><tool>", "▁", "▁▁a", "a▁b", "Ġ", "Ċ Ġa", "##ing", "@@", "supercalifragilisticexpialidocious",
    "pneumonoultramicroscopicsilicovolcanoconiosis", "aaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaaa", "abababababababababab",
    "mississippi mississippi", "hahahahaha", "Donaudampfschifffahrtsgesellschaftskapitän", "xyzzyxyzzy", "zzzzzzzzz",
    "THE QUICK BROWN FOX", "tHe QuIcK bRoWn FoX", "The quick brown fox jumps over the lazy dog.",
    "Lorem ipsum dolor sit amet, consectetur", '{"key": [1, 2.5, null, true], "ü": "\\u00fc"}',
    "SELECT * FROM t WHERE a = 'b';", "for (int i = 0; i < n; ++i) { s += a[i]; }", "\\frac{a}{b} \\alpha $x_1^2$",
    "def f(x: int) -> str:\n    return f\"{x!r}\"\n", "<a href=\"x\">y</a>", "#include <stdio.h>\n", "€uro ¥en ₿",
    "Q: What is 12 * 34?\nA: 408\n", "1. one\n2. two\n\n3. three", "Mr. O'Neil's 3 cats can't eat 1,000 fish.",
    "end\n", "\n\nstart", "a\n\n\n\n\nb", "tab\tseparated\tvalues", "mixed \t \n \t whitespace \r\n", "\r", "a\rb",
    "\r\r\n", "     5", "5     ", "5     5", "\n5", "5\n5",
]  # fmt: skip
"""A line here may hold line ends: each is one text."""

_LETTERS = "aetoinsrhldbcwfmuABzqé" + "ßñабвгחשملतक한中の"
_GLUE = [
    " ",
    " ",
    " ",
    "",
    "  ",
    "\n",
    "\t",
    "-",
    "_",
    ".",
    ", ",
    "'",
    "\u00a0",
    "   ",
    "\n\n",
    "🙂",
    "1",
    "42",
    "\r\n",
]


def mixed(count: int, seed: int = 7) -> Iterator[str]:
    """Pieces of the written lines and made-up words, glued at random."""
    generator = random.Random(seed)
    for _ in range(count):
        parts = []
        for _ in range(generator.randint(1, 12)):
            line = generator.choice(WRITTEN)
            start = generator.randrange(len(line))
            word = "".join(generator.choice(_LETTERS) for _ in range(generator.randint(1, 8)))
            parts.append(generator.choice([word, line[start : start + generator.randint(1, 9)], word.upper()]))
            parts.append(generator.choice(_GLUE))
        yield "".join(parts)


def code_points(stop: int = 0x20000, step: int = 8) -> Iterator[str]:
    """Every code point below ``stop``, ``step`` to a line, each beside a letter and a digit; no NUL, no surrogates."""
    for start in range(0, stop, step):
        chosen = [chr(c) for c in range(start, start + step) if c and not 0xD800 <= c < 0xE000]
        if chosen:
            yield "".join(f"a{c}{c} {c}1" for c in chosen)


def runs(longest: int = 70) -> Iterator[str]:
    """One character again and again: merges of equal rank, from the left."""
    for length in range(1, longest + 1):
        for unit in (" ", "\n", " \n", "a", "1", "-", "é", "中"):
            yield unit * length
            yield f"a{unit * length}b"
