# Completion of ravelctl for fish. Made by `ravelctl completion fish`.
function _ravelctl
    set -l line (commandline -cp | string collect)
    for offer in (env _RAVELCTL_LINE="$line" _RAVELCTL_COMPLETE=fish_complete ravelctl 2>/dev/null)
        set -l parts (string split \t -- $offer)
        switch $parts[1]
            case plain
                printf '%s\t%s\n' $parts[2] $parts[3]
            case file
                set -l head (string match -r '^--[^=]*=' -- (commandline -ct))
                for path in (__fish_complete_path $parts[2])
                    printf '%s%s\n' "$head" $path
                end
            case dir
                set -l head (string match -r '^--[^=]*=' -- (commandline -ct))
                for path in (__fish_complete_directories $parts[2])
                    printf '%s%s\n' "$head" $path
                end
        end
    end
end
complete --no-files --command ravelctl --arguments "(_ravelctl)"
