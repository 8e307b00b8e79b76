# The instructions between two marks, out of what qemu writes with `-d in_asm,exec,nochain`: each block of instructions
# when it is translated, and its address each time it is executed.
#   awk -v mark=SYMBOL [-v loop=1] -f counts.awk LOG
# Prints how many were executed, or those of the innermost loop that executes most of them, as hexadecimal words.

/^IN:/ { begins = "" }
/^0x[0-9a-f]+: / {
    address = substr($1, 3, length($1) - 3)
    if (begins == "") length_of[begins = address] = 0
    word[begins, length_of[begins]++] = $2
}
/^Trace / {
    split($0, parts, "/")
    sub(/^0+/, "", parts[2])
    if (index($NF, mark)) {
        is_between = !is_between
        marks++
    } else if (is_between) {
        executed += length_of[parts[2]]
        times[parts[2]]++
    }
}

# Addresses are too long for whole numbers of some awks, and a loop lies within so many bytes.
function low(address,    i, value) {
    address = substr(address, length(address) - 6)
    for (i = 1; i <= length(address); i++) value = value * 16 + index("0123456789abcdef", substr(address, i, 1)) - 1
    return value
}

# A block ends at a page of memory, too, and the first turn begins in the block before the loop: what touches and was
# executed half as often at least belongs together.
function loop_of_most(    start, first, other, most, found, i) {
    for (start in times)
        if (times[start] * length_of[start] > most) { most = times[start] * length_of[start]; first = start }
    most = times[first]
    do {
        found = ""
        for (other in times)
            if (times[other] * 2 >= most && low(other) + 4 * length_of[other] == low(first)) found = other
        if (found != "") first = found
    } while (found != "")
    do {
        for (i = 0; i < length_of[first]; i++) print word[first, i]
        found = ""
        for (other in times)
            if (times[other] * 2 >= most && low(first) + 4 * length_of[first] == low(other)) found = other
        first = found
    } while (first != "")
}

END {
    if (marks != 2) { print "not two marks, but " marks + 0 > "/dev/stderr"; exit 1 }
    if (loop) loop_of_most(); else print executed
}
