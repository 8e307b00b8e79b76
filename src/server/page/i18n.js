// What the page says, in two languages. Static texts name their key in index.html: `data-t` for the text, `data-label` for
// what a button is called, `data-hint` for what stands in an empty box.

const WORDS = {
  en: {
    menu: "Conversations", newChat: "New conversation", newText: "New text", search: "Search", settings: "Settings", experts: "Experts at work",
    close: "Close", send: "Send", stop: "Stop", box: "Your message", boxHint: "Write to {model}", toEnd: "To the end",
    skip: "Skip to the message box", thread: "Conversation", list: "Your conversations", noneYet: "What you talk about is kept here, in this browser only.",
    noneFound: "Nothing found.", today: "Today", yesterday: "Yesterday", week: "This week", before: "Earlier", untitled: "Without a title",
    rename: "Rename", exportOne: "Save as a file", delete: "Delete", title: "Title", deleted: "“{title}” is deleted.", turnDeleted: "Deleted, with all that came after it.",
    undo: "Undo", you: "You", model: "The model", copy: "Copy", copied: "Copied", code: "Code", table: "Table", checked: "done", unchecked: "not done",
    edit: "Edit", editYours: "Edit your message", editAnswer: "Edit the answer", cancel: "Cancel", save: "Save", saveAndGoOn: "Save and let it go on",
    regenerate: "Answer anew", goOn: "Go on", versions: "Versions", earlier: "Earlier version", later: "Later version", ofVersions: "{at} of {count}",
    thinking: "Thinking…", thoughts: "Thoughts", thoughtFor: "Thought for {seconds} s", waiting: "Waiting for the first word",
    readingPrompt: "Reading: {done} of {total} tokens", cutLength: "Cut off: the limit of tokens is reached.", cutStopped: "Stopped.",
    answering: "The model is answering.", answered: "The answer:", tokens: "{count} tokens", speed: "{speed} tokens/s", cached: "prompt: {cached} of {prompt} from the cache",
    context: "{used} of {all} tokens of context", errorReach: "The server cannot be reached, or the connection broke.", errorKey: "This server wants a key.",
    errorLong: "The conversation is longer than the model's context. Start a new one, or delete turns.", enterKey: "Enter it", tryAgain: "Try again",
    loading: "The model is loading…", gone: "The server cannot be reached. Trying again…", unkept: "This browser keeps nothing here: conversations last as long as this tab.",
    greetChat: "What is on your mind?", greetText: "Begin a text, and {model} goes on with it.", facts: "{experts} experts per layer, {used} at a time",
    idea1: "Explain the tides to a child", idea2: "Write a short poem about the sea", idea3: "Compare gulls and terns in a table",
    hintKeys: "Enter sends, Shift+Enter makes a new line", textHint: "Once upon a time, by the sea,", text: "Text", goOnHere: "Go on", retry: "Retry",
    undoText: "Undo", writeFirst: "Write a beginning first.", writing: "The model is writing.", written: "It wrote:", baseModel: "This model continues texts: it was not made to chat.",
    modelSection: "Model", name: "Name", size: "Size", parameters: "Parameters", contextSize: "Context", architecture: "Experts", ofExperts: "{used} of {all} per token",
    noExperts: "none: a dense model", trained: "{used} tokens; made for {all}", chats: "Kind", kindChat: "chats", kindBase: "continues texts", promptSection: "System prompt",
    promptLabel: "What the model is told before this conversation", promptHint: "You are a friendly ornithologist.", promptKept: "Also for new conversations",
    samplingSection: "How it answers", samplingNote: "An empty field takes what the model's file recommends, which is shown in grey.", reset: "As recommended",
    temperature: "Temperature", top_p: "Top-p", top_k: "Top-k", min_p: "Min-p", typical_p: "Typical-p", repeat_penalty: "Repetition penalty", repeat_last_n: "… over the last tokens",
    presence_penalty: "Presence penalty", frequency_penalty: "Frequency penalty", seed: "Seed", max_tokens: "Most tokens", stopTexts: "End before these texts, one a line",
    reasoning_effort: "Thinking", effortDefault: "as the model likes", effortNone: "none", effortLow: "little", effortMedium: "some", effortHigh: "much",
    random: "random", unlimited: "no limit", accessSection: "Access", keyLabel: "API key", keyNote: "It stays in this tab and is forgotten with it.",
    lookSection: "Look", theme: "Colours", auto: "as the system", light: "light", dark: "dark", language: "Language", dataSection: "Conversations",
    exportAll: "Save all as a file", importFile: "Read a file", deleteAll: "Delete all", imported: "{count} read.", notImported: "This file holds no conversations.",
    deletedAll: "All conversations are deleted.", keysSection: "Keys", keySend: "send", keyLine: "new line", keyStop: "stop, or close", keyNew: "new conversation",
    keyEdit: "edit your last message (in an empty box)", keySave: "save an edit; go on with a text", keyUndo: "take back the last change (outside of boxes)",
    heatNote: "Each column is a layer, each field one of its experts. Bright ones are used now.", heatIdle: "Waiting for the model to compute.", heatUse: "use",
    heatMemory: "in memory", heatHits: "Found in memory", heatReads: "Read from the file", heatBytes: "Amount read", heatTable: "As a table", layer: "Layer",
    mostUsed: "Most used", inMemory: "In memory", heatAt: "Layer {layer}, expert {expert}: used {count} times", held: "in memory", heatEnded: "The connection ended. Trying again…",
    layers: "layers", expertsAxis: "experts", heatCanvas: "Use of experts by layer; the table below says the same",
  },
  de: {
    menu: "Gespräche", newChat: "Neues Gespräch", newText: "Neuer Text", search: "Suchen", settings: "Einstellungen", experts: "Experten bei der Arbeit",
    close: "Schließen", send: "Senden", stop: "Anhalten", box: "Deine Nachricht", boxHint: "Schreib an {model}", toEnd: "Ans Ende",
    skip: "Zum Eingabefeld", thread: "Gespräch", list: "Deine Gespräche", noneYet: "Hier steht, worüber ihr sprecht. Es bleibt in diesem Browser.",
    noneFound: "Nichts gefunden.", today: "Heute", yesterday: "Gestern", week: "Diese Woche", before: "Früher", untitled: "Ohne Titel",
    rename: "Umbenennen", exportOne: "Als Datei sichern", delete: "Löschen", title: "Titel", deleted: "„{title}“ ist gelöscht.", turnDeleted: "Gelöscht, mit allem, was danach kam.",
    undo: "Rückgängig", you: "Du", model: "Das Modell", copy: "Kopieren", copied: "Kopiert", code: "Code", table: "Tabelle", checked: "erledigt", unchecked: "offen",
    edit: "Bearbeiten", editYours: "Deine Nachricht bearbeiten", editAnswer: "Die Antwort bearbeiten", cancel: "Abbrechen", save: "Sichern", saveAndGoOn: "Sichern und weiterschreiben lassen",
    regenerate: "Neu antworten", goOn: "Weiter", versions: "Fassungen", earlier: "Frühere Fassung", later: "Spätere Fassung", ofVersions: "{at} von {count}",
    thinking: "Denkt nach …", thoughts: "Gedanken", thoughtFor: "{seconds} s nachgedacht", waiting: "Wartet auf das erste Wort",
    readingPrompt: "Liest: {done} von {total} Token", cutLength: "Abgeschnitten: Die Höchstzahl an Token ist erreicht.", cutStopped: "Angehalten.",
    answering: "Das Modell antwortet.", answered: "Die Antwort:", tokens: "{count} Token", speed: "{speed} Token/s", cached: "Prompt: {cached} von {prompt} aus dem Cache",
    context: "{used} von {all} Token Kontext", errorReach: "Der Server ist nicht erreichbar, oder die Verbindung brach ab.", errorKey: "Dieser Server verlangt einen Schlüssel.",
    errorLong: "Das Gespräch ist länger als der Kontext des Modells. Beginne ein neues, oder lösche Beiträge.", enterKey: "Eingeben", tryAgain: "Noch einmal",
    loading: "Das Modell wird geladen …", gone: "Der Server ist nicht erreichbar. Neuer Versuch …", unkept: "Dieser Browser hebt hier nichts auf: Gespräche halten so lange wie dieser Tab.",
    greetChat: "Worüber möchtest du sprechen?", greetText: "Beginne einen Text, {model} schreibt ihn weiter.", facts: "{experts} Experten je Schicht, {used} zugleich",
    idea1: "Erkläre einem Kind Ebbe und Flut", idea2: "Schreib ein kurzes Gedicht über das Meer", idea3: "Vergleiche Möwen und Seeschwalben in einer Tabelle",
    hintKeys: "Enter sendet, Umschalt+Enter beginnt eine neue Zeile", textHint: "Es war einmal am Meer", text: "Text", goOnHere: "Weiter", retry: "Noch einmal",
    undoText: "Rückgängig", writeFirst: "Schreib erst einen Anfang.", writing: "Das Modell schreibt.", written: "Es schrieb:", baseModel: "Dieses Modell schreibt Texte weiter; für Gespräche ist es nicht gemacht.",
    modelSection: "Modell", name: "Name", size: "Größe", parameters: "Parameter", contextSize: "Kontext", architecture: "Experten", ofExperts: "{used} von {all} je Token",
    noExperts: "keine: ein dichtes Modell", trained: "{used} Token; gemacht für {all}", chats: "Art", kindChat: "führt Gespräche", kindBase: "schreibt Texte weiter", promptSection: "Systemprompt",
    promptLabel: "Was dem Modell vor diesem Gespräch gesagt wird", promptHint: "Du bist eine freundliche Vogelkundlerin.", promptKept: "Auch für neue Gespräche",
    samplingSection: "Wie es antwortet", samplingNote: "Ein leeres Feld nimmt, was die Modelldatei empfiehlt; das steht in Grau darin.", reset: "Wie empfohlen",
    temperature: "Temperatur", top_p: "Top-p", top_k: "Top-k", min_p: "Min-p", typical_p: "Typical-p", repeat_penalty: "Strafe für Wiederholung", repeat_last_n: "… über die letzten Token",
    presence_penalty: "Strafe für Vorkommen", frequency_penalty: "Strafe für Häufigkeit", seed: "Startwert", max_tokens: "Höchstens Token", stopTexts: "Vor diesen Texten enden, je Zeile einer",
    reasoning_effort: "Nachdenken", effortDefault: "wie das Modell mag", effortNone: "gar nicht", effortLow: "wenig", effortMedium: "mittel", effortHigh: "viel",
    random: "zufällig", unlimited: "unbegrenzt", accessSection: "Zugang", keyLabel: "API-Schlüssel", keyNote: "Er bleibt in diesem Tab und wird mit ihm vergessen.",
    lookSection: "Aussehen", theme: "Farben", auto: "wie das System", light: "hell", dark: "dunkel", language: "Sprache", dataSection: "Gespräche",
    exportAll: "Alle als Datei sichern", importFile: "Datei einlesen", deleteAll: "Alle löschen", imported: "{count} eingelesen.", notImported: "In dieser Datei stehen keine Gespräche.",
    deletedAll: "Alle Gespräche sind gelöscht.", keysSection: "Tasten", keySend: "senden", keyLine: "neue Zeile", keyStop: "anhalten oder schließen", keyNew: "neues Gespräch",
    keyEdit: "die letzte Nachricht bearbeiten (im leeren Feld)", keySave: "Bearbeitetes sichern; Text weiterschreiben", keyUndo: "letzte Änderung zurücknehmen (außerhalb von Feldern)",
    heatNote: "Jede Spalte ist eine Schicht, jedes Feld einer ihrer Experten. Helle werden gerade gebraucht.", heatIdle: "Wartet, bis das Modell rechnet.", heatUse: "Gebrauch",
    heatMemory: "im Speicher", heatHits: "Im Speicher gefunden", heatReads: "Aus der Datei gelesen", heatBytes: "Gelesene Menge", heatTable: "Als Tabelle", layer: "Schicht",
    mostUsed: "Meistgebraucht", inMemory: "Im Speicher", heatAt: "Schicht {layer}, Experte {expert}: {count}-mal gebraucht", held: "im Speicher", heatEnded: "Die Verbindung endete. Neuer Versuch …",
    layers: "Schichten", expertsAxis: "Experten", heatCanvas: "Gebrauch der Experten nach Schichten; die Tabelle darunter sagt dasselbe",
  },
};

const KEY = "moewe.language";
const known = (language) => (language && WORDS[language.slice(0, 2)] ? language.slice(0, 2) : null);
const chosen = () => {
  try {
    return known(localStorage.getItem(KEY));
  } catch {
    return null;
  }
};
let language = chosen() ?? navigator.languages.map(known).find(Boolean) ?? "en";

export const getLanguage = () => language;

/** A text, with values in the place of their names. */
export function t(key, values = {}) {
  return WORDS[language][key].replace(/\{(\w+)\}/g, (_, name) => String(values[name] ?? ""));
}

/** A number as the language writes it. */
export const number = (value, digits = 0) =>
  new Intl.NumberFormat(language, { minimumFractionDigits: digits, maximumFractionDigits: digits }).format(value);

/** Bytes in the unit that fits. */
export function bytes(value) {
  const units = ["B", "kB", "MB", "GB", "TB"];
  const power = Math.min(units.length - 1, Math.floor(Math.log10(Math.max(1, value)) / 3));
  return `${number(value / 1000 ** power, power > 1 ? 1 : 0)} ${units[power]}`;
}

/** A large number in words: 7.6 billion is "7,6 Mrd." or "7.6B". */
export const large = (value) => new Intl.NumberFormat(language, { notation: "compact", maximumSignificantDigits: 3 }).format(value);

/** Takes a language, and writes it into the page. */
export function setLanguage(wanted) {
  language = known(wanted) ?? language;
  localStorage.setItem(KEY, language);
}

/** Writes the static texts. */
export function translate(values = {}) {
  document.documentElement.lang = language;
  document.querySelectorAll("[data-t]").forEach((node) => (node.textContent = t(node.dataset.t, values)));
  document.querySelectorAll("[data-hint]").forEach((node) => (node.placeholder = t(node.dataset.hint, values)));
  document.querySelectorAll("[data-label]").forEach((node) => {
    node.setAttribute("aria-label", t(node.dataset.label, values));
    if (node.tagName === "BUTTON") node.title = t(node.dataset.label, values);
  });
}
