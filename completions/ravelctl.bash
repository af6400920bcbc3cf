# Completion of ravelctl for bash 4.4 and later. Made by `ravelctl completion bash`.
_ravelctl() {
    local kind text about
    COMPREPLY=()
    while IFS=$'\t' read -r kind text about; do
        case $kind in
            plain) COMPREPLY+=("$text") ;;
            file) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -f -- "$text") ;;
            dir) compopt -o filenames; mapfile -t COMPREPLY < <(compgen -d -- "$text") ;;
        esac
    done < <(_RAVELCTL_LINE="${COMP_LINE:0:COMP_POINT}" _RAVELCTL_COMPLETE=bash_complete "$1" 2>/dev/null)
    # Readline replaces only what follows the last = or : it breaks words at.
    local word=${COMP_LINE:0:COMP_POINT}
    word=${word##*[[:space:]]}
    local head=${word%"${word##*[=:]}"} i
    if [[ -n $head && $COMP_WORDBREAKS == *[=:]* ]]; then
        for i in "${!COMPREPLY[@]}"; do COMPREPLY[i]=${COMPREPLY[i]#"$head"}; done
    fi
    [[ ${COMPREPLY[0]} == *= ]] && compopt -o nospace
    return 0
}
complete -o nosort -F _ravelctl ravelctl
