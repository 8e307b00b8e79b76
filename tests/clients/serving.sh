# Sourced: starts "$moewe" on a free port, with "${arguments[@]}", waits until it has loaded, and leaves its address in
# $address. It ends with the script. The folder of the clients is the current one.
said=$(mktemp)
"$moewe" serve --base --port 0 --chat-template chatml --exact "${arguments[@]}" 2>"$said" &
server=$!
trap 'kill "$server" 2>/dev/null; rm -f "$said"' EXIT
until address=$(sed -n 's/^listening on //p' "$said") && [ -n "$address" ] && v/bin/python -c "
import urllib.request; urllib.request.urlopen('$address/health')" 2>/dev/null; do
    kill -0 "$server" || { cat "$said"; exit 1; }
    sleep 0.1
done
