// P-states for two CPUs, so that acpi-cpufreq offers real governors. The control ports belong to no device: a write
// goes nowhere, a read returns ones, and the driver then believes what it asked for.
DefinitionBlock ("", "SSDT", 2, "INFERH", "PSTATES", 0x1)
{
    External (\_SB.CPUS.C000, DeviceObj)
    External (\_SB.CPUS.C001, DeviceObj)
    Scope (\_SB.CPUS.C000)
    {
        Name (_PCT, Package () {
            ResourceTemplate () { Register (SystemIO, 8, 0, 0x0000000000000690) },
            ResourceTemplate () { Register (SystemIO, 8, 0, 0x0000000000000690) } })
        Name (_PSS, Package () {
            Package () { 3000, 30000, 10, 10, 0, 0 },
            Package () { 2000, 20000, 10, 10, 1, 1 },
            Package () { 1000, 10000, 10, 10, 2, 2 } })
        Name (_PPC, 0)
    }
    Scope (\_SB.CPUS.C001)
    {
        Name (_PCT, Package () {
            ResourceTemplate () { Register (SystemIO, 8, 0, 0x0000000000000691) },
            ResourceTemplate () { Register (SystemIO, 8, 0, 0x0000000000000691) } })
        Name (_PSS, Package () {
            Package () { 3000, 30000, 10, 10, 0, 0 },
            Package () { 2000, 20000, 10, 10, 1, 1 },
            Package () { 1000, 10000, 10, 10, 2, 2 } })
        Name (_PPC, 0)
    }
}
