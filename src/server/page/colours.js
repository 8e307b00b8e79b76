// Colours for code: comments, strings, numbers, keywords and names, told apart well enough to read by. Languages that look
// alike share a family; what is not known stays plain.

import { el } from "./dom.js";

const NUMBER = String.raw`\b(?:0[xbo][\da-f_]+|\d[\d_]*(?:\.\d[\d_]*)?(?:e[+-]?\d+)?)\w*\b`;
const QUOTED = String.raw`"(?:[^"\\\n]|\\.)*"|'(?:[^'\\\n]|\\.)*'`;
const WORD = String.raw`[\p{L}_$][\p{L}\p{N}_$]*[!?]?`;
const SLASHES = String.raw`\/\/.*|\/\*[\s\S]*?(?:\*\/|$(?![\s\S]))`;

/** Patterns by class, tried in this order. */
const FAMILIES = {
  c: { comment: SLASHES, meta: String.raw`^[ \t]*(?:#\w+|#!?\[.*\]|@\w+).*?$`, string: String.raw`${QUOTED}|` + "`(?:[^`\\\\]|\\\\.)*`", number: NUMBER, word: WORD },
  rust: { comment: SLASHES, meta: String.raw`#!?\[[^\]\n]*\]`, string: String.raw`b?"(?:[^"\\]|\\.)*"|'(?:[^'\\\n]|\\[^\n]+?)'`, symbol: String.raw`'\w+`, number: NUMBER, word: WORD },
  python: { comment: "#.*", meta: String.raw`^[ \t]*@[\w.]+`, string: String.raw`\w{0,2}(?:"""[\s\S]*?(?:"""|$(?![\s\S]))|'''[\s\S]*?(?:'''|$(?![\s\S]))|${QUOTED})`, number: NUMBER, word: WORD },
  shell: { comment: String.raw`(?<![\w$&])#.*`, string: String.raw`"(?:[^"\\]|\\.)*"|'[^']*'`, attr: String.raw`\$\{[^}\n]*\}|\$\w+|(?<=\s)--?[\w-]+`, number: NUMBER, word: WORD },
  sql: { comment: String.raw`--.*|\/\*[\s\S]*?(?:\*\/|$(?![\s\S]))`, string: QUOTED, number: NUMBER, word: WORD },
  data: { comment: String.raw`(?<=^|\s)(?:#|\/\/).*`, attr: String.raw`"(?:[^"\\\n]|\\.)*"(?=\s*:)|^[ \t-]*[\w.-]+(?=\s*[:=])|^\[.*\]`, string: QUOTED, number: `-?${NUMBER}`, word: WORD },
  markup: { comment: String.raw`<!--[\s\S]*?(?:-->|$(?![\s\S]))`, keyword: String.raw`<[\/?!]?[\w:-]+|\/?>`, attr: String.raw`[\w:-]+(?==)`, string: QUOTED },
  style: { comment: SLASHES, string: QUOTED, keyword: String.raw`@[\w-]+`, attr: String.raw`--?[\w-]+|[\w-]+(?=\s*:\s)`, number: String.raw`#[\da-f]{3,8}\b|-?\d[\d.]*(?:%|\w+)?` },
  diff: { meta: "^(?:@@.*|(?:---|\\+\\+\\+|diff|index) .*)$", addition: String.raw`^\+.*$`, deletion: "^-.*$" },
};
const NAMES = {
  c: "c h cpp c++ cc hpp cs csharp java kotlin kt scala swift go golang js javascript jsx mjs ts typescript tsx php dart zig cuda",
  rust: "rust rs",
  python: "python py ruby rb julia r elixir nim",
  shell: "bash sh shell zsh console fish powershell dockerfile makefile",
  sql: "sql sqlite postgresql mysql lua haskell hs",
  data: "json jsonc yaml yml toml ini properties",
  markup: "html xml svg vue",
  style: "css scss less",
  diff: "diff patch",
};
const KEYWORDS = new Set(
  `abstract and as assert async await begin bool boolean break byte case catch char class const constexpr continue crate def default
  defer del do double elif else elseif end enum except export extends extern final finally float fn for foreach from func function go
  goto if impl implements import in inline instanceof int interface is lambda let long loop match mod module move mut namespace new not
  operator or package pass private protected pub public raise range ref require return select self short signed sizeof static struct
  super switch template then this throw trait try type typedef typename typeof union unsafe unsigned use using val var virtual void
  volatile when where while with yield local until echo fi done esac export readonly set source`.split(/\s+/),
);
const SQL = new Set(
  `select from where insert into values update delete create table index view drop alter add join left right inner outer full on group by
  order having limit offset union all distinct as and or not null is in between like exists case when then else end primary key
  references foreign unique default check begin commit rollback with set`.split(/\s+/),
);
const LITERALS = new Set(["true", "false", "null", "none", "nil", "undefined", "nan", "yes", "no", "on", "off"]);

const families = new Map(Object.entries(NAMES).flatMap(([family, names]) => names.split(" ").map((name) => [name, family])));
const patterns = new Map();

function pattern(family) {
  if (!patterns.has(family)) {
    const parts = Object.entries(FAMILIES[family]).map(([name, source]) => `(?<${name}>${source})`);
    patterns.set(family, new RegExp(parts.join("|"), "gimu"));
  }
  return patterns.get(family);
}

/** Pieces of code in this language, the coloured ones as elements; `null` where it is not known. */
export function coloured(code, language) {
  const family = families.get(language.toLowerCase());
  if (!family) return null;
  const pieces = [];
  let end = 0;
  for (const found of code.matchAll(pattern(family))) {
    const [kind] = Object.entries(found.groups).find(([, text]) => text !== undefined);
    const text = found[0];
    const shown = kind === "word" ? kindOf(text, family, code.slice(found.index + text.length, found.index + text.length + 2)) : kind;
    if (!shown || !text) continue;
    pieces.push(code.slice(end, found.index), el("span", { class: `c-${shown}` }, text));
    end = found.index + text.length;
  }
  return [...pieces, code.slice(end)];
}

function kindOf(word, family, next) {
  const small = word.toLowerCase();
  if (LITERALS.has(small)) return "number";
  if (family === "data") return null;
  if (family === "sql" ? SQL.has(small) || KEYWORDS.has(word) : KEYWORDS.has(word)) return "keyword";
  if (next.startsWith("(") || word.endsWith("!")) return "title";
  return /^\p{Lu}\p{L}*\p{Ll}/u.test(word) ? "type" : null;
}
